"""Settings that must stand before anything is imported: no model hub, and quiet libraries."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PT_TEST_TRANSFORMER_REPORTS"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
