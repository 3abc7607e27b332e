"""The supervisor behind `millrace up` and `down`. Import `laptop.up`, `laptop.down`, `laptop.home` directly: none of them imports grpc."""
