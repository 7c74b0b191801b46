"""How are many calls of one function asked for together?"""
