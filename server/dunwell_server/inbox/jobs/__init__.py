"""What job workers do for the inbox: apply events, find their firms, find gaps."""
