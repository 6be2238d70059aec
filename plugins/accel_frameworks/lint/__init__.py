"""`accel lint`: where a script assumes CUDA, and what happens there on another device."""
