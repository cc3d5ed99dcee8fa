"""What real servers, clients, proxies and identity providers do, tried with real parts."""
