"""What mmengine's Runner needs beside itself to be exact: shared by evaluation and pretraining."""
