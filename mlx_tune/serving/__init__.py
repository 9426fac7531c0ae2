"""The server: the model that HEAD names behind the API that clients already speak, and a page."""
