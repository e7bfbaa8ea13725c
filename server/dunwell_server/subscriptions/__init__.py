"""What clients subscribe to, and the coupons that take something off it."""
