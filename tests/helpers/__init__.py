"""What tests share: tiny models, small stores, servers and clients, and ways to break them."""
