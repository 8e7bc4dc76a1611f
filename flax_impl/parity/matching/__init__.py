"""How the weight map finds which module is which: units, the layouts that link them, their names, and the pairing."""
