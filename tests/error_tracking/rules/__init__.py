"""The table: each module tells the rules of some chapters of the contract, one function for each."""
