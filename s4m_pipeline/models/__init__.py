"""Networks, as subclasses of mmdet's."""
