package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/rimlight/rimlight/internal/dropclock"
)

// Errors that a caller tells apart. Those with variables are types; the rest are sentinels.
var (
	// ErrReplayed: the same request id, or order id, came before with another body.
	ErrReplayed = errors.New("store: the id was used before with another body")
	// ErrKeyTaken: the signing key belongs to another node.
	ErrKeyTaken = errors.New("store: the signing key belongs to another node")
)

// DropNotFoundError means: no drop has this id.
type DropNotFoundError struct{ DropID ID }

func (e *DropNotFoundError) Error() string { return fmt.Sprintf("no drop %v", e.DropID) }

// OrderNotFoundError means: no order has this id.
type OrderNotFoundError struct{ OrderID ID }

func (e *OrderNotFoundError) Error() string { return fmt.Sprintf("no order %v", e.OrderID) }

// NotLiveError means: units of the drop are not lent now.
type NotLiveError struct {
	DropID              ID
	State               dropclock.State
	OpenTime, CloseTime time.Time
}

func (e *NotLiveError) Error() string { return fmt.Sprintf("drop %v is %v", e.DropID, e.State) }

// NotSettleableError means: the drop is not CLOSED yet, or units of it are still leased.
type NotSettleableError struct {
	DropID ID
	State  dropclock.State
	Leased uint32 // quarantined ones too
}

func (e *NotSettleableError) Error() string {
	return fmt.Sprintf("drop %v is %v with %d units leased", e.DropID, e.State, e.Leased)
}

// NotJoinedError means: no node has this id.
type NotJoinedError struct{ NodeID ID }

func (e *NotJoinedError) Error() string { return fmt.Sprintf("node %v has not joined", e.NodeID) }

// DiskChangedError means: the node joined from another disk since it last did from this one.
type DiskChangedError struct{ NodeID ID }

func (e *DiskChangedError) Error() string {
	return fmt.Sprintf("another disk took the place of this one of node %v", e.NodeID)
}

// SupersededError means: another process joined from a copy of the node's data directory, or a later life of this one.
type SupersededError struct{ NodeID ID }

func (e *SupersededError) Error() string {
	return fmt.Sprintf("another process took the place of this one of node %v", e.NodeID)
}

// FencedError means: the node gets nothing of the drop any more.
type FencedError struct{ NodeID ID }

func (e *FencedError) Error() string { return fmt.Sprintf("node %v is fenced", e.NodeID) }

// EpochStaleError means: the node's epoch is not the current one.
type EpochStaleError struct{ Epoch, Current int64 }

func (e *EpochStaleError) Error() string {
	return fmt.Sprintf("epoch %d, current is %d", e.Epoch, e.Current)
}

// LeaseNotFoundError means: no lease has this id, or it is another node's.
type LeaseNotFoundError struct{ LeaseID ID }

func (e *LeaseNotFoundError) Error() string {
	return fmt.Sprintf("no lease %v of this node", e.LeaseID)
}

// UnitNotSoldError means: the unit is not sold to the purchase that an order names.
type UnitNotSoldError struct {
	DropID ID
	Serial uint32
}

func (e *UnitNotSoldError) Error() string {
	return fmt.Sprintf("unit %d of drop %v is not this purchase's", e.Serial, e.DropID)
}

// LeaseInUseError means: the lease is ACTIVE.
type LeaseInUseError struct{ LeaseID ID }

func (e *LeaseInUseError) Error() string { return fmt.Sprintf("lease %v is in use", e.LeaseID) }

// ClaimsOpenError means: receipts for a quarantined lease are still waited for.
type ClaimsOpenError struct {
	LeaseID ID
	End     time.Time
}

func (e *ClaimsOpenError) Error() string {
	return fmt.Sprintf("receipts for lease %v are waited for until %v", e.LeaseID, e.End)
}

func ignoreMissing(err error) error {
	if missing := (*DropNotFoundError)(nil); errors.As(err, &missing) {
		return nil
	}
	return err
}
