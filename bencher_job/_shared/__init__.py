"""Shared stores: who else has it?"""
