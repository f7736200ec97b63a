"""Training of rerankers: options, recipes, losses, the trainer and its provenance.

Submodules: ``options`` (``TrainingOptions``), ``recipes`` (published and default settings),
``losses`` (which a reranker's ``loss`` names), ``distillation`` (``TeacherScores``), ``examples``
(checks of training examples), ``memory`` (``estimate_memory``), ``lora``, ``arguments``,
``trainer``, ``resume`` (checkpoints), ``model_selection`` (which weights are kept) and
``provenance``.
"""
