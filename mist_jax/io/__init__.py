"""Reading model descriptions, traces and engine results; writing exports."""
