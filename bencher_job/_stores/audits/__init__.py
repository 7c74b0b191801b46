"""Is all that lies in a store whole, and does it belong there?"""
