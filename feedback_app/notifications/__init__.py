"""What people are told of without looking: kinds of events, who wants them, and the outbox that brings them."""
