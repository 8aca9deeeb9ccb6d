"""The engine inside LangChain and LlamaIndex: drop-in models, retrievers and chains."""
