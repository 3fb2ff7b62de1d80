"""What stands or falls together when influence is turned into money: credit blind to identity."""
