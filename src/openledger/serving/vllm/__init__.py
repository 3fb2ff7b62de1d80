"""An engine on another machine: a vLLM server, spoken to over HTTP."""
