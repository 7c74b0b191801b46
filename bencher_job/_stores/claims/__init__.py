"""Who computes a key, among all threads and processes of this machine?"""
