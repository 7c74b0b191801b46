"""How do entries travel from one store to another, as one file?"""
