"""Worker processes behind one engine: `dispatch` decides, `front` is the server's side, `worker` the other."""
