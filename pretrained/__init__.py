"""Small published networks that Myna uses but does not train."""
