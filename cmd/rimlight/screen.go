package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ctrlC is what the key is in raw mode, where it interrupts nobody.
const ctrlC = 3

const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate buffer, without a cursor: what was there comes back afterwards
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseRest   = "\x1b[J"
	reset       = "\x1b[0m"
)

// styles are by style; NO_COLOR leaves only the words.
var styles = [...]string{bold: "\x1b[1m", bad: "\x1b[31m", warn: "\x1b[33m"}

// screen is a terminal taken over whole: raw keys in, frames out.
type screen struct {
	// keys are the bytes typed; closed when the terminal is gone.
	keys chan byte

	out     *os.File
	in      int // the descriptor
	before  *term.State
	colour  bool
	stop    context.CancelFunc
	reading sync.WaitGroup
}

// openScreen takes the terminal over. Close gives it back.
func openScreen(in, out *os.File) (*screen, error) {
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("taking over the terminal: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &screen{keys: make(chan byte), out: out, in: fd, before: before, colour: os.Getenv("NO_COLOR") == "", stop: stop}
	s.reading.Go(func() { s.read(ctx) })
	if _, err := out.WriteString(enterScreen); err != nil {
		return nil, errors.Join(fmt.Errorf("taking over the terminal: %w", err), s.Close())
	}
	return s, nil
}

// Close gives the terminal back as it was.
func (s *screen) Close() error {
	s.stop()
	s.reading.Wait()
	_, err := s.out.WriteString(leaveScreen)
	return errors.Join(err, term.Restore(s.in, s.before))
}

// keyPoll is how long a read of the keys takes at most to notice the end: a blocking read of a terminal cannot be ended.
const keyPoll = 100 * time.Millisecond

func (s *screen) read(ctx context.Context) {
	defer close(s.keys)
	typed := make([]byte, 16)
	for ctx.Err() == nil {
		ready := []unix.PollFd{{Fd: int32(s.in), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(keyPoll.Milliseconds()))
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return
		}
		if n, err = unix.Read(s.in, typed); err != nil || n == 0 { // the terminal is gone
			return
		}
		for _, key := range typed[:n] {
			select {
			case s.keys <- key:
			case <-ctx.Done():
				return
			}
		}
	}
}

// draw replaces what is on the screen, in one write so that it does not flicker.
func (s *screen) draw(frame func(width, height int) []line) error {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil {
		return fmt.Errorf("asking for the terminal's size: %w", err)
	}
	var b bytes.Buffer
	b.WriteString(home)
	for i, l := range frame(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if code := styles[l.style]; s.colour && code != "" {
			b.WriteString(code + l.text + reset)
		} else {
			b.WriteString(l.text)
		}
		b.WriteString(eraseLine)
	}
	b.WriteString(eraseRest)
	if _, err := s.out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	return nil
}
