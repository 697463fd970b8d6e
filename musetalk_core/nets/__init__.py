"""Plain networks; each file's state_dict fits the released checkpoint it is named after."""
