"""Operations of a store, and the kills, disk errors and power cuts that strike them."""
