"""How does a value become bytes that are verified before anything is believed of them?"""
