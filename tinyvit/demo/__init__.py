"""``tinyvit demo``: the whole road on data that the package draws itself.

- ``shapes.py`` draws the data: images of coloured, textured shapes, with classes, boxes and
  masks.
- ``plan.py`` holds every setting of the road: the full run, the smaller one for slow machines, and
  ``--quick``.
- ``drawn.py`` and ``coco.py`` put the data of either source (drawn, or a COCO folder) into the
  layout of ``layout.py``.
- ``stages.py`` walks the road, one function per stage, through the public functions of the rooms.
- ``report.py`` makes the page from ``result.json``, and only from it; its charts are those of the
  benchmarks.
"""
