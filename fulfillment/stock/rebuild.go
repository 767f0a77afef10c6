package stock

import "bytes"

// ID is a UUID's, or a token id's, 16 bytes.
type ID = [16]byte

// State is what a unit is.
type State int

// The states.
const (
	Free   State = 1
	Leased State = 2
	Sold   State = 3
)

// Unit is one unit: of what lease it is LEASED or was SOLD, and to which K.
type Unit struct {
	State State
	Lease ID
	Token ID
}

// Standing is what the verifier knows of a redemption's unit.
type Standing int

// The standings, numbered as rimlight.fulfillment.v1.UnitStanding.
const (
	Open     Standing = 1
	Settled  Standing = 2
	Released Standing = 3
	Denied   Standing = 4
)

// Fact is one redemption that the verifier knows of.
type Fact struct {
	Lease, Token ID
	Standing     Standing
}

// Evidence is everything that is known of one unit after a restore.
type Evidence struct {
	// Backup is what the old copy says.
	Backup Unit
	// Holders are leases of which nodes report that they hold the unit: it is untouched, or used.
	Holders []ID
	// Reported tells that a node reported the lease that the backup names, whether it still holds the unit or not.
	Reported bool
	// Facts are the verifier's.
	Facts []Fact
}

// Rebuild is the unit as it must be now (docs/decisions/0018). Where several say that it is theirs, the lease that was
// granted last is right, since a unit is granted again only after it came back: ids of leases are ordered by time.
// contradicted: it stays sold to a purchase that only the backup knows.
func Rebuild(e Evidence) (u Unit, contradicted bool) {
	over := map[ID]bool{} // leases that it left, by the verifier's word
	u = Unit{State: Free}
	claim := func(c Unit) {
		if u.State == Free || c.State > u.State || c.State == u.State && bytes.Compare(c.Lease[:], u.Lease[:]) > 0 {
			u = c
		}
	}
	known := false
	for _, f := range e.Facts {
		known = known || f.Token == e.Backup.Token
		switch f.Standing {
		case Released, Denied:
			over[f.Lease] = true
		case Settled:
			claim(Unit{Sold, f.Lease, f.Token})
		}
	}
	if e.Backup.State == Sold && known && !over[e.Backup.Lease] {
		claim(e.Backup)
	}
	for _, f := range e.Facts { // a duplicate's standing ends with its own token, so another one's may be open
		if f.Standing == Open {
			claim(Unit{State: Leased, Lease: f.Lease})
		}
	}
	for _, lease := range e.Holders {
		if !over[lease] {
			claim(Unit{State: Leased, Lease: lease})
		}
	}
	if e.Backup.State == Leased && !e.Reported && !over[e.Backup.Lease] { // its grant was lost, or its holder is
		claim(Unit{State: Leased, Lease: e.Backup.Lease})
	}
	if e.Backup.State == Sold && !known && bytes.Compare(e.Backup.Lease[:], u.Lease[:]) >= 0 {
		return e.Backup, true
	}
	return u, false
}
