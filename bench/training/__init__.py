"""What evaluation and pretraining add to mmengine's Runner: hooks, seeding, loading and one device."""
