"""Images: finding them in folders, archives and lists, decoding them, and the preprocessing a model
wants.
"""
