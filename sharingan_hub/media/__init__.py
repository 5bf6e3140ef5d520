"""Pictures, films and drawings as files, with the recipe that made them."""

from sharingan_hub.media.files import read_recipe as read_recipe
from sharingan_hub.media.files import replacing as replacing
from sharingan_hub.media.pictures import SUFFIXES as SUFFIXES
from sharingan_hub.media.pictures import eight_bits as eight_bits
from sharingan_hub.media.pictures import image_grid as image_grid
from sharingan_hub.media.pictures import on_white as on_white
from sharingan_hub.media.pictures import open_known as open_known
from sharingan_hub.media.pictures import write_png as write_png
from sharingan_hub.media.vector import draw_svg as draw_svg
from sharingan_hub.media.vector import write_svg as write_svg
from sharingan_hub.media.video import write_animation as write_animation
from sharingan_hub.media.video import write_video as write_video
