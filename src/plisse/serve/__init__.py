"""An elastic network as an HTTP service with a dashboard."""
