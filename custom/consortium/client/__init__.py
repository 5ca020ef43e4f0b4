"""What a hospital does with its data: networks, inference, scores and the model's bundle."""
