"""How fast and how exact: MuseTalk's true architecture with random weights, the plain upstream way against ours."""
