"""What `detrkit infer` leaves behind: pictures, videos and lists of detections."""
