"""What files show: pictures and films, read alike for training and for your own photos, and the faces in them."""
