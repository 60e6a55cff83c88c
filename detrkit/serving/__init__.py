"""A detector as an HTTP service: uploads in, detections out.

    cli.serve -> server.run -> app.build_app: routes, guard (token, headers, counts)
    request -> uploads (limits) -> service (decode in threads, time limit) -> Batcher -> Runtime

Nothing here knows a model: all a service needs is a `Predictor`.
"""
