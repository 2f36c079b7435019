"""Facial cartoonization with a white-box GAN and facial landmarks: the library under the notebooks."""
