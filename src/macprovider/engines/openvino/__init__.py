"""OpenVINO GenAI in the server's own process."""
