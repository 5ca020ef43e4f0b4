"""The hospital's command `consortium`, and the code that the scripts share with it."""
