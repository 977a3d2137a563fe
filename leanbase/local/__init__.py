"""An ingestion server for development: `python -m leanbase.local`.

It takes what the real one takes, refuses what the real one refuses and says why, and shows what
arrives. Loopback only. `validation` judges a request, `store` keeps events, `server` is the HTTP in
between, `table` what a person sees.
"""
