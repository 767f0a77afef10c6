package forward

// Retriable lets tests ask it of any descriptor.
var Retriable = retriable
