package gossip

// Kill ends the ring member without a goodbye.
func (r *Ring) Kill() error {
	var err error
	r.closing.Do(func() { err = r.list.Shutdown() })
	return err
}

// DecodeMeta exposes the decoder to the fuzzer: it reports whether a second encoding gives the same fields.
func DecodeMeta(b []byte) (again []byte, err error) {
	m, err := decodeMeta(b)
	if err != nil {
		return nil, err
	}
	return m.encode()
}

// MetaOf is what a configuration announces.
func MetaOf(cfg Config, revision int64) ([]byte, error) {
	m := cfg.meta()
	m.revision = revision
	return m.encode()
}

const (
	MetaVersion    = metaVersion
	RejoinInterval = rejoinInterval
	Tombstone      = tombstone
	AnnounceDelay  = announceDelay
)
