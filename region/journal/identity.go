package journal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rimlight/rimlight/internal/filelock"
	"github.com/rimlight/rimlight/internal/ids"
)

// Identity is who a node is: born with its data directory, the same over restarts.
type Identity struct {
	NodeID string // UUIDv7
	DiskID string // changes when the directory moves to another machine or is made anew
	Seed   []byte // of the node's Ed25519 signing key, 32 bytes; a secret
}

// NewIdentity makes one that no directory holds, for a node on a simulated disk.
func NewIdentity(now time.Time, random io.Reader) (Identity, error) {
	b, err := newBirth(now, random)
	if err != nil {
		return Identity{}, err
	}
	key, err := newKeyFile(b, random)
	if err != nil {
		return Identity{}, err
	}
	return Identity{NodeID: b.nodeID, DiskID: diskID(b, "simulated"), Seed: key.Seed}, nil
}

// The files of a data directory.
const (
	lockFile    = "lock"          // held by the process that uses the directory; its pid inside, for people
	keyFileName = "identity.json" // mode 0600: the signing key must not travel with a journal that is handed over
	journalFile = "journal.db"
)

// keyFile is the identity's half outside the journal. The two name each other, so that neither passes for another's.
type keyFile struct {
	NodeID string `json:"node_id"`
	Disk   []byte `json:"disk"`
	Seed   []byte `json:"signing_seed"`
}

// Options of Open. The zero value is right outside tests.
type Options struct {
	// QueueRecords bounds what waits for the next commit. 0: 4,096.
	QueueRecords int
	// Now and Random make a new directory's identity. nil: time.Now and crypto/rand.
	Now    func() time.Time
	Random io.Reader
	// NodeID is who a new directory's node is: that of a node which lost its disk, and comes back as itself with another
	// one. Empty: a new node. A directory that has an identity refuses another one.
	NodeID string
	// MachineID names the machine. Empty: what the operating system says, or the host's name.
	MachineID string
	// Fault is asked at every stage of a commit; an error there is a failed fsync, ErrClosed a power cut.
	Fault func(Stage) error
}

// Open opens the journal in a data directory, making both at the first start. The directory is this process's alone
// until Close. It refuses a directory that is in use, that lost a half, or whose journal is corrupt (*CorruptError):
// of the records that a snapshot stands for, Scrub tells.
func Open(ctx context.Context, dir string, o Options) (*SQLite, Identity, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Identity{}, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := filelock.Acquire(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, Identity{}, err
	}
	s, id, err := openLocked(ctx, dir, o)
	if err != nil {
		return nil, Identity{}, errors.Join(err, lock.Close())
	}
	s.lock = lock
	return s, id, nil
}

// openLocked makes the journal first and the key second: a start that was cut short in between has a journal without a
// record, and goes on.
func openLocked(ctx context.Context, dir string, o Options) (*SQLite, Identity, error) {
	key, err := readKeyFile(filepath.Join(dir, keyFileName))
	if err != nil {
		return nil, Identity{}, err
	}
	path := filepath.Join(dir, journalFile)
	info, err := os.Stat(path) // the key is written after the journal's first commit: an empty file beside it was not made here
	if lost := errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0; lost && key != nil {
		return nil, Identity{}, fmt.Errorf("%s holds a node's identity without its journal: restore the journal, "+
			"or begin with an empty directory as a new node", dir)
	}
	fresh, err := newBirth(o.Now(), o.Random)
	if err != nil {
		return nil, Identity{}, err
	}
	if o.NodeID != "" {
		if _, err := ids.Bytes(o.NodeID); err != nil {
			return nil, Identity{}, fmt.Errorf("the node's id: %w", err)
		}
		fresh.nodeID = o.NodeID
	}
	db, b, last, err := openFile(ctx, path, func() birth { return fresh })
	if err != nil {
		return nil, Identity{}, err
	}
	if o.NodeID != "" && o.NodeID != b.nodeID {
		return nil, Identity{}, errors.Join(fmt.Errorf("%s belongs to node %s, not to node %s", dir, b.nodeID, o.NodeID), db.Close())
	}
	if key, err = matchKeyFile(key, b, last, dir, o.Random); err != nil {
		return nil, Identity{}, errors.Join(err, db.Close())
	}
	machine := o.MachineID
	if machine == "" {
		if machine, err = machineID(); err != nil {
			return nil, Identity{}, errors.Join(err, db.Close())
		}
	}
	syncs := &stopwatch{}
	w := newWriter(last, o.QueueRecords, o.Fault, func(first int64, payloads [][]byte) error {
		return syncs.time(func() error { return write(db, first, payloads) })
	})
	return &SQLite{writer: w, syncs: syncs, db: db, dir: dir}, Identity{NodeID: b.nodeID, DiskID: diskID(b, machine), Seed: key.Seed}, nil
}

func matchKeyFile(key *keyFile, b birth, last int64, dir string, random io.Reader) (*keyFile, error) {
	switch {
	case key == nil && last > 0:
		return nil, fmt.Errorf("%s holds a journal without the node's %s: restore it, the journal's receipts were signed with its key", dir, keyFileName)
	case key == nil:
		key, err := newKeyFile(b, random)
		if err != nil {
			return nil, err
		}
		return key, key.write(dir)
	case key.NodeID != b.nodeID || !bytes.Equal(key.Disk, b.disk):
		return nil, fmt.Errorf("%s holds the identity of node %s and the journal of node %s", dir, key.NodeID, b.nodeID)
	}
	return key, nil
}

func newBirth(now time.Time, random io.Reader) (birth, error) {
	b := birth{nodeID: ids.NewV7(now, random), disk: make([]byte, 16)}
	if _, err := io.ReadFull(random, b.disk); err != nil {
		return birth{}, fmt.Errorf("making a disk id: %w", err)
	}
	return b, nil
}

func newKeyFile(b birth, random io.Reader) (*keyFile, error) {
	k := &keyFile{NodeID: b.nodeID, Disk: b.disk, Seed: make([]byte, ed25519.SeedSize)}
	if _, err := io.ReadFull(random, k.Seed); err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	return k, nil
}

func readKeyFile(path string) (*keyFile, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the node's identity: %w", err)
	}
	k := &keyFile{}
	if err := json.Unmarshal(raw, k); err != nil || len(k.Seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is not a node's identity", path) // the error of json could quote the key
	}
	return k, nil
}

// write makes the file durable under another name first, so that a crash leaves it whole or absent.
func (k *keyFile) write(dir string) error {
	raw, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the node's identity: %w", err)
	}
	temporary := filepath.Join(dir, keyFileName+".new")
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, filepath.Join(dir, keyFileName))
	}
	if err != nil {
		return fmt.Errorf("writing the node's identity: %w", err)
	}
	return syncDir(dir)
}

// diskID names the directory and the machine: a copy that starts on another machine is another disk, and is fenced.
func diskID(b birth, machine string) string {
	sum := sha256.Sum256([]byte("disk-id/v1\x00" + machine)) // hashed, since a machine id should not leave its machine
	return hex.EncodeToString(b.disk) + "-" + hex.EncodeToString(sum[:8])
}

func machineID() (string, error) {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if raw, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(raw)) > 0 {
			return strings.TrimSpace(string(raw)), nil
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("naming this machine: %w", err)
	}
	return host, nil
}

// syncDir makes a new name in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
