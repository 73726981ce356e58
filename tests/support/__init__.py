"""What several tests use: tiny models, recorded devices, servers, and the commands as a user starts them."""
