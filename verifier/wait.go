package verifier

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// sleep returns after d, when woken, or when ctx ends. A nil wake never wakes.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// backoff is the pause after failures+1 failures in a row: exponential, and drawn from its upper half, so that those who
// failed together do not come back together.
func (s *Service) backoff(failures int) time.Duration {
	d := s.cfg.MinBackoff
	for range failures {
		if d *= 2; d >= s.cfg.MaxBackoff {
			d = s.cfg.MaxBackoff
			break
		}
	}
	return d/2 + s.rand.upTo(d/2)
}

// jitter is d, give or take a tenth.
func (s *Service) jitter(d time.Duration) time.Duration { return d - d/10 + s.rand.upTo(d/5) }

// lockedReader makes a source of randomness safe for concurrent use.
type lockedReader struct {
	mu sync.Mutex // guards r
	r  io.Reader
}

// Read implements io.Reader.
func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// lockedRand draws pauses.
type lockedRand struct {
	mu sync.Mutex // guards r
	r  *rand.Rand
}

func newLockedRand(random io.Reader) (*lockedRand, error) {
	var seed [16]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("seeding the jitter: %w", err)
	}
	return &lockedRand{r: rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])))}, nil
}

func (l *lockedRand) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.r.Int64N(int64(d) + 1))
}
