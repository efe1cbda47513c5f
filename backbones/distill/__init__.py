"""The pretrainer: a teacher labels once, and every student afterwards trains from the store.

The names that other rooms use are imported from the modules themselves: :mod:`.label`
(``label_store``), :mod:`.train` (``pretrain``), :mod:`.teachers` (``load_teacher``), :mod:`.store`
(``SoftLabelStore``). ``FORMAT.md`` beside this file is the format of the store.
"""
