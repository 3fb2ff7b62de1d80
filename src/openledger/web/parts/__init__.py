"""What the routes call, over the flows and the database; `wiring` hands it to `web.app`."""
