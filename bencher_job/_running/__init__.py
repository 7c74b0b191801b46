"""How does each job run once, and what becomes of its result?"""
