"""What each model family needs: load and save, text conditioning, noise, target, sampling."""
