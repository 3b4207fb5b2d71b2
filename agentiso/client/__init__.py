"""Programs' ends of the supervisor's socket."""
