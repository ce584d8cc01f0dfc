"""The rollout stop: who samples, vLLM with both adapters, and how their weights get there."""
