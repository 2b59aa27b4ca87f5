"""Everyday English-French sentence pairs, made from templates and the word forms of pyrealb."""

import random
import re
from functools import cache
from typing import NamedTuple

from pyrealb import NO, A, N, V, addToLexicon, getLemma, loadEn, loadFr

LEXICON = """
food: apple=pomme, orange=orange, egg=œuf, cake=gâteau, sandwich=sandwich, pizza=pizza, banana=banane, tomato=tomate,
 carrot=carotte, pear=poire, strawberry=fraise, cookie=biscuit, ~bread=pain, ~cheese=fromage, ~rice=riz, ~meat=viande,
 ~fish=poisson, ~chicken=poulet, ~soup=soupe, ~salad=salade, ~chocolate=chocolat, ~ham=jambon, ~ice cream=glace
drink: ~water=eau, ~milk=lait, ~coffee=café, ~tea=thé, ~wine=vin, ~beer=bière, ~orange juice=jus d'orange
read: book=livre, newspaper=journal, magazine=magazine, novel=roman, article=article, story=histoire, poem=poème
mail: letter=lettre, message=message, card=carte, email=courriel
watch: movie=film, match=match, show=émission, video=vidéo
song: song=chanson, tune=mélodie
clothes: shirt=chemise, dress=robe, coat=manteau, hat=chapeau, sweater=pull, skirt=jupe, jacket=veste, tie=cravate,
 scarf=écharpe, ^shoe=chaussure, ^sock=chaussette, ^boot=botte, ^glove=gant, ^glass=lunette
car: car=voiture, truck=camion
ride: _train=train, _bus=bus, _plane=avion, _boat=bateau
machine: bike=vélo, motorcycle=moto, computer=ordinateur, washing machine=machine à laver
thing: key=clé, phone=téléphone, umbrella=parapluie, bag=sac, watch=montre, wallet=portefeuille, camera=appareil photo,
 pen=stylo, pencil=crayon, notebook=cahier, ticket=billet, ring=bague, toy=jouet, ball=ballon, knife=couteau,
 suitcase=valise, passport=passeport, dictionary=dictionnaire, guitar=guitare, photo=photo
furniture: table=table, bed=lit, desk=bureau, chair=chaise, armchair=fauteuil, sofa=canapé, closet=placard
fragile: cup=tasse, glass=verre, bottle=bouteille, plate=assiette, vase=vase, mirror=miroir, lamp=lampe
device: _light=lumière, _lamp=lampe, _radio=radio, _computer=ordinateur, _oven=four, _heating=chauffage
open: _door=porte, _window=fenêtre, _box=boîte, _drawer=tiroir, _suitcase=valise, _bag=sac
room: _kitchen=cuisine, _bedroom=chambre, _bathroom=salle de bain, _living room=salon, _house=maison, _garage=garage,
 _office=bureau, _apartment=appartement
kin: brother=frère, sister=sœur, ~mother=mère, ~father=père, uncle=oncle, aunt=tante, cousin=cousin, son=fils,
 daughter=fille, ~grandmother=grand-mère, ~grandfather=grand-père, friend=ami, neighbor=voisin, ~boss=patron,
 teacher=professeur, ^parent=parent, ^child=enfant
role: man=homme, woman=femme, boy=garçon, girl=fille, child=enfant, student=étudiant, doctor=médecin, tourist=touriste,
 policeman=policier, waitress=serveuse, baker=boulanger
animal: dog=chien, cat=chat, horse=cheval, bird=oiseau, rabbit=lapin, cow=vache, mouse=souris, duck=canard
gift: gift=cadeau, book=livre, flower=fleur, toy=jouet, watch=montre, ring=bague, guitar=guitare, bike=vélo
abstract: problem=problème, lesson=leçon, exercise=exercice, rule=règle, sentence=phrase, question=question
sight: _museum=musée, _castle=château, _church=église, _city=ville, _station=gare, _village=village, _bridge=pont
shop: bakery=boulangerie, bank=banque, pharmacy=pharmacie, hotel=hôtel, restaurant=restaurant, school=école, park=parc
event: _meeting=réunion, _concert=concert, _movie=film, _class=cours, _party=fête, _match=match, _show=spectacle
plant: flower=fleur, tree=arbre, bush=arbuste
NAME: Tom=Tom=m, Mary=Marie=f, Paul=Paul=m, Alice=Alice=f, John=John=m, Emma=Emma=f, Lucas=Lucas=m, Sophie=Sophie=f,
 David=David=m, Anna=Anna=f, Jack=Jack=m, Julie=Julie=f
DET: the=the=the=le=la=les, a=a=some=un=une=des, some=some=some=de le=de la=des, this=this=these=ce=cette=ces,
 that=that=those=ce=cette=ces, no===de=de=de, gen===le=la=les, which=which=which=quel=quelle=quels, what=what
 a=what=quel=quelle=quels, howmany=how much=how many=combien de=combien de=combien de
PRO: I=me=my=je=me=me=moi=mon ma mes, you=you=your=tu=te=te=toi=ton ta tes, he=him=his=il=le=lui=lui=son sa ses,
 we=us=our=nous=nous=nous=nous=notre notre nos, you=you=your=vous=vous=vous=vous=votre votre vos,
 they=them=their=ils=les=leur=eux=leur leur leurs, she=her=her=elle=la=lui=elle=son sa ses, it=it=its=il=le=lui=lui=son
 sa ses, it=it=its=elle=la=lui=elle=son sa ses, they=them=their=elles=les=leur=elles=leur leur leurs
TOWN: in Paris=à Paris, in London=à Londres, in France=en France, in Japan=au Japon, in the United States=aux
 États-Unis, in Italy=en Italie, in Canada=au Canada, in Germany=en Allemagne, abroad=à l'étranger, in the country=à la
 campagne, here=ici, at my grandmother's=chez ma grand-mère
AT: at school=à l'école, at home=à la maison, in the park=au parc, at the beach=à la plage, at the hospital=à
 l'hôpital, at the restaurant=au restaurant, at the office=au bureau, at the library=à la bibliothèque, at the
 market=au marché, at the station=à la gare, at the airport=à l'aéroport, at the hotel=à l'hôtel, in the garden=dans le
 jardin, in the kitchen=dans la cuisine, at the swimming pool=à la piscine, there=là-bas, at church=à l'église, in the
 mountains=à la montagne, at Tom's place=chez Tom, {TOWN}={TOWN}
LOC: on {the_furniture}=sur {the_furniture}, under {the_furniture}=sous {the_furniture}, in front of
 {the_furniture}=devant {the_furniture}, behind {the_furniture}=derrière {the_furniture}, next to {the_furniture}=à
 côté de {the_furniture}, near {the_open}=près de {the_open}
CLOCK: {hour} o'clock={hour} heures, half past {hour}={hour} heures et demie, a quarter past {hour}={hour} heures et
 quart, ten to {hour}={hour} heures moins dix, noon=midi
HOUR: at {CLOCK}=à {CLOCK}
BY: by car=en voiture, by train=en train, by bus=en bus, by bike=à vélo, on foot=à pied
HOW: slowly=lentement, quickly=rapidement, carefully=avec soin, quietly=en silence
WITH: with {who}=avec {who}
LANG: French=le français, English=l'anglais, Spanish=l'espagnol, German=l'allemand, history=l'histoire, Japanese=le
 japonais
SPEAK: French=français, English=anglais, Spanish=espagnol, German=allemand, Japanese=japonais, Italian=italien
AGE: {num} years old={num} ans, {num}={num} ans
past: yesterday=hier, last week=la semaine dernière, last night=hier soir, this morning=ce matin, last year=l'année
 dernière, last Saturday=samedi dernier, yesterday morning=hier matin, last month=le mois dernier, last summer=l'été
 dernier, {few} days ago=il y a {few} jours, on {day}={day}
future: tomorrow=demain, tonight=ce soir, next week=la semaine prochaine, tomorrow morning=demain matin, soon=bientôt,
 this afternoon=cet après-midi, next year=l'année prochaine, next month=le mois prochain, on {day}={day}, in {few}
 days=dans {few} jours
pres: every day=tous les jours, every morning=tous les matins, on Sundays=le dimanche, every week=toutes les semaines,
 every evening=tous les soirs, in the afternoon=l'après-midi, once a week=une fois par semaine, from time to time=de
 temps en temps
now: now=maintenant, at the moment=en ce moment, right now=en ce moment
state: today=aujourd'hui, this morning=ce matin, tonight=ce soir
often: often=souvent, always=toujours, sometimes=parfois, rarely=rarement
already: already=déjà
degree: very=très, too=trop, so=si, really=vraiment, a little=un peu
many: a lot of=beaucoup de, many=beaucoup de, several=plusieurs, a few=quelques, two=deux, three=trois, four=quatre,
 ten=dix, too many=trop de
much: a lot of=beaucoup de, a little=un peu de, too much=trop de, enough=assez de
cup: a cup of=une tasse de, a glass of=un verre de, a bottle of=une bouteille de
day: Monday=lundi, Tuesday=mardi, Wednesday=mercredi, Thursday=jeudi, Friday=vendredi, Saturday=samedi, Sunday=dimanche
month: January=janvier, March=mars, April=avril, May=mai, June=juin, July=juillet, September=septembre, October=octobre
JOB: a teacher=professeur, a nurse=infirmier/infirmière, a lawyer=avocat/avocate, a student=étudiant/étudiante, a
 journalist=journaliste, a dentist=dentiste, an actor=acteur/actrice, a singer=chanteur/chanteuse, a
 waiter=serveur/serveuse, a baker=boulanger/boulangère, a musician=musicien/musicienne, an artist=artiste, an
 architect=architecte, a cook=cuisinier/cuisinière, a pilot=pilote, a secretary=secrétaire
CMP: taller than {who}=plus *grand que {who}, younger than {who}=plus *jeune que {who}, older than {who}=plus *âgé que
 {who}, richer than {who}=plus *riche que {who}, stronger than {who}=plus *fort que {who}, as tall as {who}=aussi
 *grand que {who}, as intelligent as {who}=aussi *intelligent que {who}, as lazy as {who}=aussi *paresseux que {who},
 more patient than {who}=plus *patient que {who}, more serious than {who}=plus *sérieux que {who}, less patient than
 {who}=moins *patient que {who}, less famous than {who}=moins *célèbre que {who}, happier than {who}=plus *heureux que
 {who}
TIRED: tired=*fatigué, sick=*malade, busy=*occupé, in a hurry=*pressé
EASY: easy=facile, difficult=difficile, important=important, dangerous=dangereux, impossible=impossible
STATUS: alone=*seul, married=*marié, ready=*prêt, French=*français, American=*américain, Japanese=*japonais,
 German=*allemand, angry=en colère
VERY: {degree} {ADJ}={degree} {ADJ}
ADJ: tired=*fatigué, happy=*heureux, sad=*triste, sick=*malade, rich=*riche, poor=*pauvre, tall=*grand, young=*jeune,
 busy=*occupé, nervous=*nerveux, kind=*gentil, intelligent=*intelligent, strong=*fort, lazy=*paresseux,
 famous=*célèbre, serious=*sérieux, polite=*poli, shy=*timide, funny=*drôle, worried=*inquiet, proud=*fier,
 curious=*curieux, patient=*patient, calm=*calme, jealous=*jaloux
adj: good=bon=food+drink+read+watch+shop, delicious=délicieux=food, big=gros=food+animal,
 small=petit=food+car+machine+thing+furniture+fragile+room+animal+gift+sight+shop,
 excellent=excellent=food+drink+watch, fresh=frais=food, cold=froid=drink, hot=chaud=drink,
 interesting=intéressant=read+mail+watch+abstract+event, long=long=read+mail+event, boring=ennuyeux=read+watch+event,
 funny=drôle=read+watch, old=vieux=read+watch+song+clothes+car+machine+thing+furniture+fragile+room+role+animal+sight,
 new=nouveau=read+song+clothes+car+machine+thing+furniture+abstract+shop, short=court=read+mail,
 important=important=mail+abstract+event, beautiful=beau=song+clothes+car+thing+furniture+fragile+room+gift+sight,
 sad=triste=song, red=rouge=clothes+car+thing, black=noir=clothes+thing+animal, white=blanc=clothes+car+animal,
 blue=bleu=clothes, green=vert=clothes, warm=chaud=clothes, expensive=cher=clothes+car+machine+thing+gift,
 pretty=joli=clothes+gift, gray=gris=clothes, dirty=sale=clothes+fragile+room, fast=rapide=car,
 modern=moderne=machine+furniture+room, useful=utile=thing, big=grand=furniture+fragile+room+sight+shop,
 comfortable=confortable=furniture, clean=propre=fragile+room+clothes, quiet=calme=room, young=jeune=role+animal,
 nice=gentil=role, French=français=role, American=américain=role, intelligent=intelligent=role+animal,
 simple=simple=abstract, difficult=difficile=abstract, famous=célèbre=sight
"""
VERBS = """
do: eat=manger=food=pwha, drink=boire=drink=pwa, order=commander=food+drink=p, buy=acheter=food+drink+thing+clothes=p,
 buy=acheter=car+furniture+read+machine=o, cut=couper=food, bring=apporter=food+drink+gift=n, prepare=préparer=food,
 read=lire=read=p, write=écrire=mail=p, receive=recevoir=mail+gift=no, watch=regarder=watch=pw, listen
 to=écouter=song=pw, sing=chanter=song=p, wear=porter=clothes=p, put ~on=mettre=clothes, wash=laver=clothes+car, take
 ~off=enlever=clothes, try ~on=essayer=clothes=o, choose=choisir=clothes+gift+read=no, drive=conduire=car=h,
 repair=réparer=car+machine=h, sell=vendre=car+machine+furniture=o, find=trouver=thing+animal=nop,
 lose=perdre=thing+clothes=nop, look for=chercher=thing+animal=p, break=casser=fragile+furniture=no,
 forget=oublier=thing+clothes=nop, hide=cacher=thing+gift=op, borrow=emprunter=thing+car=o, use=utiliser=thing+machine,
 steal=voler=thing+car+machine=no, turn ~on=allumer=device, turn ~off=éteindre=device, open=ouvrir=open=h,
 close=fermer=open=h, clean=nettoyer=room+fragile=h, paint=peindre=room+furniture=o, draw=dessiner=animal+plant=p,
 visit=visiter=sight=w, take=prendre=ride=w, miss=rater=ride=no, wait for=attendre=ride=p, feed=nourrir=animal,
 see=voir=watch+animal+sight=no, answer=répondre à=abstract+mail=o, explain=expliquer=abstract=o, water=arroser=plant,
 learn=apprendre=LANG=p, study=étudier=LANG=pw, finish=finir=read+abstract=no, plant=planter=plant=o,
 start=commencer=read+abstract=no, carry=porter=furniture+thing, speak=parler=SPEAK=k, cook=cuisiner=food, look
 at=regarder=thing+animal+sight
people: see=voir=person=nop, meet=rencontrer=person=nop, help=aider=person, call=appeler=person,
 invite=inviter=person=n, wait for=attendre=person=p, thank=remercier=person=n, listen to=écouter=person, look
 at=regarder=person, kiss=embrasser=person=o, visit=rendre visite à=person=w, talk to=parler à=person=p, write
 to=écrire à=person, answer=répondre à=person=no, follow=suivre=person=o, hear=entendre=person=no, think about=penser
 à=person=g, take care of=se occuper de=person=g, play with=jouer avec=person=p, work with=travailler avec=person=p,
 dance with=danser avec=person=p, travel with=voyager avec=person, forgive=pardonner à=person=no, look
 for=chercher=person=p, find=trouver=person=nop
mind: remember=se souvenir de=person=sg, trust=faire confiance à=person=s, know=connaître=person=si,
 love=aimer=person=si, hate=détester=person=si, admire=admirer=person=si, believe=croire=person=s,
 understand=comprendre=person+abstract=s, need=avoir besoin de=person+food+thing+machine=sig, prefer=préférer=GEN=si,
 like=aimer=GEN=si, love=adorer=GEN=si, hate=détester=GEN=si, have=avoir=thing+car+animal+machine+read=si,
 want=vouloir=food+drink+thing+gift=si, have time=avoir le temps==si, live=habiter=TOWN=si, have money=avoir de
 l'argent==si, have=avoir=q_kin=si
person: know=connaître=person=si, love=aimer=person=si, hate=détester=person=si, admire=admirer=person=si, trust=faire
 confiance à=person=s, help=aider=person
dative: give=donner=gift+fragile=n, show=montrer=thing+read+gift, send=envoyer=mail+gift, lend=prêter=thing+read+car=n,
 offer=offrir=gift=n, bring=apporter=food+drink+gift=n, sell=vendre=car+machine=no, read=lire=read,
 explain=expliquer=abstract=d, write=écrire=mail, return=rendre=thing+read=dno
intr: sleep=dormir==pa, work=travailler==pwh, run=courir==pah, walk=marcher==pwh, swim=nager==wk, dance=danser==pwk,
 sing=chanter==pwk, cry=pleurer==p, laugh=rire==w, smile=sourire, travel=voyager==w, wait=attendre==p,
 cook=cuisiner==k, study=étudier==pw, eat=manger==pwha, leave=partir==lwn, go out=sortir==wl, come=venir==wl, come
 back=revenir==wl, fall=tomber==noap, smoke=fumer==p, shout=crier==p, talk=parler==w, drive=conduire==hk, come
 home=rentrer à la maison==l, go home=rentrer à la maison==lw, work hard=travailler dur==p, have lunch=déjeuner==pwl,
 have dinner=dîner==pwl, get up=se lever==l, wake up=se réveiller==l, go to bed=se coucher==l, get dressed=se
 habiller==h, hurry=se dépêcher==n, rest=se reposer==p, have fun=se amuser==pw, fall asleep=se endormir==npl, go for a
 walk=se promener==pw, get married=se marier==no, shave=se raser==l, wash one's hands=se laver les mains==h,
 arrive=arriver==nl, brush one's teeth=se brosser les dents==h, take a shower=prendre une douche==l, take a
 bath=prendre un bain==l, have breakfast=prendre le petit déjeuner==pwl, do the dishes=faire la vaisselle==wh, do one's
 homework=faire ses devoirs==pwh, go shopping=faire les courses==w, play cards=jouer aux cartes==pw, play soccer=jouer
 au football==wk, play tennis=jouer au tennis==wk, play chess=jouer aux échecs==wk, play the piano=jouer du piano==k,
 pay the bill=payer l'addition, play the guitar=jouer de la guitare==k, do the laundry=faire la lessive, make one's
 bed=faire son lit==h, take pictures=prendre des photos==p, set the table=mettre la table, tell the truth=dire la
 vérité==n, ride a bike=faire du vélo==kw, listen to the radio=écouter la radio==p, watch TV=regarder la
 télévision==pw, make a mistake=faire une erreur==no, take a trip=faire un voyage==w, take a break=faire une pause,
 change one's mind=changer d'avis==no, learn to swim=apprendre à nager, learn to drive=apprendre à conduire, play in
 the snow=jouer dans la neige==wa, go swimming=aller nager==w, clean the house=faire le ménage, play video games=jouer
 aux jeux vidéo==w, lose weight=perdre du poids==no, earn money=gagner de l'argent
motion: go=aller=TO=wlb, return=retourner=TO=w, stay=rester=AT=w
be: be=être=ADJ+VERY+STATUS=sit, be=être=ADJ+VERY=si, be=être=JOB=si, be=être=AT=sit, be=avoir=AGE=si, be=être=CMP=si,
 be late=être en retard==sit, be hungry=avoir faim==sit, be thirsty=avoir soif==sit, be cold=avoir froid==sit, be
 right=avoir raison==si, be sleepy=avoir sommeil==sit, be lucky=avoir de la chance==si, be on vacation=être en
 vacances==sit, be wrong=avoir tort==si, be afraid of dogs=avoir peur des chiens==si, have a headache=avoir mal à la
 tête==sit, have a cold=avoir un rhume==sit, have a fever=avoir de la fièvre==sit
reason: be hungry=avoir faim==si, be=être=TIRED=si, be=être=TIRED=si, have a headache=avoir mal à la tête==si, be
 cold=avoir froid==si, be sleepy=avoir sommeil==si, be late=être en retard==si, be thirsty=avoir soif==si, be
 afraid=avoir peur==si, have a cold=avoir un rhume==si
weather: rain=pleuvoir==y, snow=neiger==y, be cold=faire froid==yist, be hot=faire chaud==yist, be windy=faire du
 vent==yist, be sunny=faire du soleil==yist, be dark=faire nuit==yi
quality: be=être=ADJ+VERY=si
spot: be=être=LOC=si
start: start=commencer=HOUR=n, end=se terminer=HOUR=n
begin: start=commencer==n, end=se terminer==n
owned: belong to=appartenir à=person=si
ask: ask=demander à=person=no, tell=dire à=person=no, advise=conseiller à=person=no
think: think=penser==si, believe=croire==si, say=dire==s, know=savoir==si
thing: buy=acheter=thing+clothes, find=trouver=thing, lose=perdre=thing, borrow=emprunter=thing+machine,
 wash=laver=clothes+car, repair=réparer=machine+car, read=lire=read, write=écrire=mail, receive=recevoir=mail+gift
"""
TENSES = """
tense: pres=do b=p=pres=y=14, past=did b=past=past=y=22, prog=be g=p=now=sny=9, pprog=was g=i==sny=4, perf=have
 n=pc==sy=7, fut=will b=f=future==9, going=be going to b=aller p=future=s=8, cond=would b=c==y=2, can=can b=pouvoir
 p=future=sy=5, could=could b=pouvoir c=future=sy1=2, couldnt=could b=pouvoir pc=past=sy0q=2, must=must b=devoir
 p==syq=3, plup=had n=pq==syq=1, want=do want to b=vouloir p=future=sy=4, wanted=did want to b=vouloir i==sy=2, like=do
 like to b=aimer p==synoq=2, haveto=do have to b=devoir p=future=sy1=4, hadto=did have to b=devoir pc=past=sy1=2,
 should=should b=devoir c=future=sy=4, need=do need to b=avoir besoin de p==sy=2, love=do love g=adorer p==syno1q=1,
 hate=do hate g=détester p==syno1q=1, wouldlike=would like to b=vouloir c=future=sy=4, used=did use to b=i==yo1q=2,
 just=have just n=venir de p==sy1q=2, try=be trying to b=essayer de p==syn1=1, tried=did try to b=essayer de
 pc=past=syn1=1, forgot=did forget to b=oublier de pc==sy1=1, decided=did decide to b=décider de pc==sy1=1, started=did
 start g=commencer à pc==syn1=1, stopped=did stop g=arrêter de pc==syn1q=1, hope=do hope to b=espérer p=future=sy1q=1,
 able=will be able to b=pouvoir f=future=sy=1, know=do know how to b=savoir p==syK=6, willhave=will have to b=devoir
 f=future=sy1=1, about=be about to b=être sur le point de p==sy1q=1, condperf=would have n=cp==syq=1, shouldhave=should
 have n=devoir cp==syq=1, subj=do b=s==y=0, whenf=do b=f==s=0, ifi=did b=i==y=0, since=have n=p==1=0, sinceg=have been
 g=p==sn1=0
"""
ROWS = """
80|{A}.|{A}.|s=any
14|{A.q}?|est-ce que {A} ?|q= n=.06
6|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=what v=do,dative q= n=0
4|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=which v=do,dative q= n=0
3|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=howmany v=eat,drink,buy,read,write,receive,find,lose,sell,see,need,send,have q= n=0
3|{A.w} {A.q}?|{A.w} est-ce que {A} ?|gap=who v=people,mind q= n=0
3|{A}?|{A} ?|s=who n=.15 v=act t=past,pres,prog,going,want,can,fut
4|why {A.q}?|pourquoi est-ce que {A} ?|q= n=.25
3|when {A.q}?|quand est-ce que {A} ?|q= n=0 x=p v=act t=past,fut,going
3|where {A.q}?|où est-ce que {A} ?|q= n=0 f=p x=t v=act
2|what time {A.q}?|à quelle heure est-ce que {A} ?|q= n=0 f=l x=0 t=past,pres,fut,going,want,should
1|how long {A.q}?|combien de temps est-ce que {A} ?|q= n=0 v=sleep,work,study,stay t=past,fut,going x=p
1|how {A.q}?|comment est-ce que {A} ?|q= n=0 v=break,repair,find,open,meet,come_home t=past x=0
4|{A.i}!|{A.i} !|s=you x=p n=0 v=act not=o
6|{A.i}.|{A.i}.|s=you v=act not=o n=.35
2|{A.i}.|{A.i}.|s=we v=do,intr x=t not=o n=.1
3|please {A.i}.|{A.i}, s'il [te/vous] plaît.|s=you n=.2 x=p v=act not=o
2|{NAME}, {A.i}!|{NAME}, {A.i} !|s=you x=p v=act not=o
3|{A} because {B}.|{A} parce que {B}.|t=past x=0 v=intr,do,motion|v=reason s=same t=past n=0
2|{A} because {B}.|{A} parce que {B}.|t=pres,going,want x=0 n=.3 v=intr,motion|v=weather t=pres n=0 x=0
2|{A} because {B}.|{A} parce que {B}.|t=pres x=0 v=person n=.2|v=quality s=obj t=pres n=0 x=0
3|{A} when {B}.|{A} quand {B}.|t=pprog n=.1 x=p|t=past n=0 s=other v=arrive,come_home,call,meet,come_back x=0
2|when {A}, {B}.|quand {A}, {B}.|t=past v=arrive,come_home,come_back,leave n=0 x=0|t=pprog n=.1 s=other x=p
2|when {A}, {B}.|quand {A}, {B}.|t=whenf v=arrive,come_home,get_up n=0 x=0|t=fut n=.1 x=p s=same v=act
2|if {A}, {B}.|si {A}, {B}.|t=pres v=weather x=0 n=.2|t=fut x=0 v=do,people,intr,motion
3|if {A}, {B}.|si {A}, {B}.|t=pres v=come,leave,help,invite,sell,find,lose,call x=0 n=.2|t=fut s=other x=0 v=intr,be,motion n=.2
2|if {A}, {B}.|si {A}, {B}.|t=ifi v=have_time,have_money,have n=.1 x=0|t=cond s=same x=0 n=0 v=do,people,motion
1|if {A}, {B}.|si {A}, {B}.|t=plup x=0 v=do,intr,people|t=condperf s=other x=0 v=people,intr n=.2
3|{A}, but {B}.|{A}, mais {B}.|t=wouldlike,want x=0 n=0 v=intr,do,motion|v=reason s=same t=pres n=0 x=0
2|{A}, but {B}.|{A}, mais {B}.|t=wanted x=0 n=0 v=intr,do,motion|v=reason s=same t=past n=0
3|I think (that) {A}.|je pense que {A}.|s=other
3|{A} (that) {B}.|{A} que {B}.|v=think t=pres n=0 x=0|s=other x=t
2|{A} (that) {B}.|{A} que {B}.|v=think t=past n=0 x=0|t=plup,cond,pprog x=p n=.25
2|{A} (that) {B}.|{A} que {B}.|v=think t=past n=0 x=0|t=past v=be,mind x=0 s=same
2|do you know if {A}?|est-ce que [tu sais/vous savez] si {A} ?|s=third n=0
2|I don't know why {A}.|je ne sais pas pourquoi {A}.|s=third
3|I want {A.s}.|je veux que {A}.|t=subj s=other v=act n=0 x=0
3|{A} to {B.b}.|{A} pour {B.b}.|v=motion t=past,fut,going,want,pres x=0 n=0|s=same v=do,people n=0 x=0
2|{A} before {B.g}.|{A} avant de {B.b}.|t=past,pres,fut,going x=0 n=0 v=do,intr,people|s=same v=intr,motion n=0 x=0
2|{A} after {B.g}.|{A} après {B.n}.|t=past,fut,going x=0 n=0 v=intr,people|s=same v=intr,do n=0 x=0
3|it +is {EASY} to {A.b}.|il est {EASY} de {A.b}.|s=you n=0 x=p v=do,intr,people not=o
3|{A} and {B}.|{A} et {B}.|v=buy,find,borrow,bring,receive t=past x=t n=0|v=show,lose,hide,sell,give s=same o=A t=past x=0 n=0
2|{A}, but {B}.|{A}, mais {B}.|v=lose,forget,look_for,hide t=past x=p n=0|v=find s=other o=A t=past,fut x=0 n=0
2|this +is {A.r} (that) {A}.|c'est {A.r} que {A}.|gap=rel n=0 x=t t=past,perf,want v=do
2|where +is {A.r} (that) {A}?|où est {A.r} que {A} ?|gap=rel n=0 x=t t=past v=thing
4|{A} {B.t}.|{A} de {B.b}.|v=ask t=past,going,pres n=.1 x=0|s=obj n=.12 x=p v=do,intr,people not=o
2|don't forget to {A.b}.|[n'oublie/n'oubliez] pas de {A.b}.|s=you n=0 x=p v=act not=o
2|thank you for {A.g}.|merci de {A.n}.|s=you v=help,invite,wait_for,listen_to,call,talk_to,believe o=me n=0 x=0
2|I'm happy to {A.b}.|je suis content de {A.b}.|s=I n=0 x=p v=act not=o
1|I'm sorry, but {A}.|je suis désolé, mais {A}.|s=I t=can,past,couldnt,haveto,must,fut x=0
2|{A} for {few} years.|{A} depuis {few} ans.|v=live,work,know,study,speak t=since,sinceg n=0 x=0
2|{A} for {few} hours.|{A} depuis {few} heures.|v=wait,sleep,work,read,walk,study,wait_for,cook t=sinceg n=0 x=0
2|{A} for {few} hours.|{A} pendant {few} heures.|v=sleep,work,walk,study,talk,swim,wait t=past,fut,going x=p n=0
6|{A}.|{A}.|s=thing+clothes+car+furniture+room+read+food+fragile v=quality t=pres,past,fut
2|{A.q}?|est-ce que {A} ?|s=thing+clothes+car+furniture+room+read+food v=quality n=0 t=pres,past
3|{A}.|{A}.|s=thing+clothes+read+fragile+animal v=spot t=pres,past n=.15
2|where +is {the_thing}? {the_thing.p} +is {LOC}.|où est {the_thing} ? {the_thing.p} est {LOC}.
2|{A}.|{A}.|s=event v=start n=.1 t=pres,past,fut,going
1|what time {A.q}?|à quelle heure est-ce que {A} ?|s=event v=begin t=pres,past,fut,going n=0 x=0
2|{A}.|{A}.|s=thing+clothes+car+read v=owned t=pres x=0
4|{A}.|{A}.|v=weather
2|{A.q}?|est-ce que {A} ?|v=weather q= n=0
3|there +is {a_furniture} in {the_room}.|il y a {a_furniture} dans {the_room}.
2|there are {q_animal} near {the_sight}.|il y a {q_animal} près de {the_sight}.
2|there were {q_role} {AT}.|il y avait {q_role} {AT}.
2|is there {a_shop} near {the_sight}?|est-ce qu'il y a {a_shop} près de {the_sight} ?
1|there +is {a_fragile} {LOC}.|il y a {a_fragile} {LOC}.
1|there +is no {no_drink} left.|il n'y a plus {no_drink}.
1|there +will be {a_event} {future}.|il y aura {a_event} {future}.
2|how old +is {kin}?|quel âge a {kin} ?
1|how +is {kin}?|comment va {kin} ?
1|what +is {kin} called?|comment s'appelle {kin} ?
1|where +is {kin}?|où est {kin} ?
1|where does {kin} live?|où habite {kin} ?
1|how much does {this_machine} cost?|combien coûte {this_machine} ?
1|{this_machine} costs {num} euros.|{this_machine} coûte {num} euros.
1|what color +is {the_car}?|de quelle couleur est {the_car} ?
1|thank you for {the_gift}.|merci pour {the_gift}.
2|{what_gift}!|{what_gift} !
1|{what_room}!|{what_room} !
1|excuse me, where +is {the_sight}?|excusez-moi, où est {the_sight} ?
2|I +would like {a_food}, please.|je voudrais {a_food}, s'il vous plaît.
1|would you like {cup_drink}?|[voudrais-tu/voudriez-vous] {cup_drink} ?
1|it +is {num} minutes from {the_sight}.|c'est à {num} minutes de {the_sight}.
1|it +is {CLOCK}.|il est {CLOCK}.
1|today +is {day}.|aujourd'hui, c'est {day}.
1|my birthday +is in {month}.|mon anniversaire est en {month}.
1|who +is {that_role}?|qui est {that_role} ?
1|this +is {kin}.|voici {kin}.
1|who does {this_thing} belong to?|à qui est {this_thing} ?
1|good morning, {NAME}.|bonjour, {NAME}.
1|happy birthday, {NAME}!|joyeux anniversaire, {NAME} !
1|what time is it?|quelle heure est-il ?
1|what +is your name?|comment [t'appelles-tu/vous appelez-vous] ?
1|my name +is {NAME}.|je m'appelle {NAME}.
1|how are you?|comment [vas-tu/allez-vous] ?
"""


class NP(NamedTuple):
    """A phrase in both languages, its person (1 I .. 6 they), French gender, class (people: "") and if a pronoun."""

    en: str
    fr: str
    i: int = 3
    g: str = "m"
    cls: str = ""
    pron: bool = False


class Clause(NamedTuple):
    """A clause before it is put into words; `gap` is what a question or a relative took out of it."""

    subj: NP
    verb: list[str]
    tense: str
    neg: str
    obj: NP | None
    to: NP | None
    gap: NP | None
    mid: NP
    tail: NP


class Ctx(NamedTuple):
    """What one sentence is made with: the random source and the person of "you" (2 tu, 5 vous)."""

    r: random.Random
    you: int


def parse(text: str) -> dict[str, list[list[str]]]:
    """A table's sections ("name: a=b=c, d=e ..."), each a list of its entries split at "="."""
    parts = re.split(r"\n(\w+): ", text.replace("\n ", " "))[1:]
    return {k: [e.split("=") for e in re.split(r", *", v.strip())] for k, v in zip(parts[::2], parts[1::2])}


LEX, TENSE = parse(LEXICON), {t[0]: t[1:] for t in parse(TENSES)["tense"]}
DET, PEOPLE = {d[0]: d[1:] for d in LEX["DET"]}, ("", "kin", "role")
ADJ = {c: [a for a in LEX["adj"] if c in a[2].split("+")] for a in LEX["adj"] for c in a[2].split("+")}
VERB = {k: [(*v, "", "")[:4] for v in vs] for k, vs in parse(VERBS).items()}
VERB |= {v[0].replace(" ", "_"): [v] for vs in reversed(VERB.values()) for v in vs[::-1]}
VERB["act"] = [v for k in ("do", "people", "dative", "intr", "motion") for v in VERB[k]]
ROW = [line.split("|") for line in ROWS.strip().split("\n")]
WEIGHTS = [int(row[0]) for row in ROW]
VOWEL = r"(?!huit|onze|haut|oui)[aeiouyhàâéèêëîïôûœ]"
ELIDE = re.compile(rf"(?<![\w'-])([jdnmtscl]e|la|que|si(?= il)) (?={VOWEL})", re.I)
INDEFINITE = re.compile(r"^(?:une? (?!peu)|des |du |de la |de l')")
NOT_FR = {"not": "pas", "never": "jamais", "no longer": "plus", "anymore": "plus", "yet": "pas encore", "nothing": "rien"}
NOT_EN = {"can": "can't", "will": "won't", "am": "aren't"}
AUX = {"be": "am are is are are are", "was": "was were was were were were", "do": "do do does do do do",
       "have": "have have has have have have"}
SHORT = {"am": "'m", "is": "'s", "are": "'re", "has": "'s", "have": "'ve", "will": "'ll", "would": "'d", "had": "'d"}
CONTRACT = re.compile(r"\b(?:(I|you|he|she|it|we|they) \+(?!was|were|do)|(there|that|this|what|where|who|how) \+(?=is))(\w+)\b", re.I)
COMPOUND, PREPOSITIONS = {"pc": "p", "pq": "i", "cp": "c"}, ("à", "de", "avec")
addToLexicon("pull", {"N": {"g": "m", "tab": "n3"}}, "fr")


@cache
def en_form(word: str, form: str) -> str:
    """An English form: of a verb b base, s third person, d past, n participle, g -ing; the plural ("p") of a noun."""
    loadEn()
    if form == "p":
        first, _, last = word.rpartition(" ")
        return f"{first} {N(last).n('p').realize()}".strip()
    tense = {"b": "b", "s": "p", "d": "ps", "n": "pp", "g": "pr"}[form]
    return V(word).t(tense).pe(3).realize().replace("travell", "travel")


@cache
def fr_verb(verb: str, tense: str, i: int = 3) -> str:
    """A French verb in a tense of pyrealb (b infinitive, pp participle, ip imperative), person i."""
    loadFr()
    return V(verb).t(tense).pe((i - 1) % 3 + 1).n("s" if i < 4 else "p").realize()


@cache
def fr_noun(word: str, plural: bool) -> tuple[str, str]:
    """A French noun in the number asked for (its first word varies), and its gender (m where it has both)."""
    loadFr()
    first, *more = word.replace("œ", "oe").split(" ")
    forms = [N(first).n("p").realize() if plural else first, *more]
    return " ".join(forms).replace("oe", "œ"), "f" if getLemma(first, "fr")["N"]["g"] == "f" else "m"


@cache
def fr_adjective(word: str, g: str, plural: bool) -> tuple[str, bool]:
    """A French adjective agreed, and whether it stands before its noun."""
    loadFr()
    return A(word).g(g).n("p" if plural else "s").realize(), A(word).getProp("pos") == "pre"


@cache
def number(n: int) -> NP:
    """A number in words."""
    loadEn()
    en = NO(n).nat().realize()
    loadFr()
    return NP(en, NO(n).nat().realize())


def elide(fr: str) -> str:
    """French text in single spaces, with je, le, la, que ... elided."""
    return ELIDE.sub(lambda m: m[1][:-1] + "'", re.sub(" +", " ", fr))


def joined(prep: str, fr: str) -> str:
    """A French preposition and a phrase: au, aux, du, des, and no partitive after de."""
    text = f"{prep} " + (re.sub(r"^(?:des |du |de la |de l'|de )", "", fr) if prep == "de" else fr)
    return re.sub("^à le ", "au ", re.sub("^à les ", "aux ", re.sub("^de le ", "du ", re.sub("^de les ", "des ", text))))


def pro(np: NP) -> list[str]:
    """A phrase's pronouns: English subject, object, possessive, French subject, direct, indirect, strong, possessives."""
    third = 2 + 4 * (np.g == "f") if np.cls in PEOPLE else 7 + (np.g == "f")
    return LEX["PRO"][{3: third, 6: 5 if np.g == "m" else 9}.get(np.i, np.i - 1)]


def pronoun(np: NP) -> NP:
    """The subject pronoun of a phrase."""
    return np._replace(en=pro(np)[0], fr=pro(np)[3], pron=True)


def strong(np: NP) -> tuple[str, str]:
    """A phrase after a preposition, where its pronoun is him or lui."""
    return (pro(np)[1], pro(np)[6]) if np.pron else (np.en, np.fr)


def human(ctx: Ctx, pron: float, avoid: NP | None = None) -> NP:
    """People: with probability `pron` a pronoun (not one that meets `avoid` again), else a name, relatives, others."""
    r = ctx.r
    if r.random() < pron:
        i = r.choice([n for n in (1, 1, ctx.you, 3, 3, 4, 6) if not avoid or n in (3, 6) or (n - avoid.i) % 3])
        return pronoun(NP("", "", i, "f" if r.random() < {3: 0.5, 6: 0.12}.get(i, 0) else "m"))
    kind = r.choice(("NAME", "NAME", "kin", "kin", "role"))
    if kind == "NAME":
        en, fr, g = r.choice(LEX[kind])
        return NP(en, fr, 3, g)
    return noun_phrase(ctx, kind, owner(ctx) if kind == "kin" else r.choice(("the", "the", "this", "that", "a")))


def owner(ctx: Ctx) -> NP:
    """Whose something is: mostly mine, else yours, his, hers or ours."""
    return NP("", "", ctx.r.choice((1, 1, 1, 1, ctx.you, 3, 3, 4)), ctx.r.choice("mf"))


def noun_phrase(ctx: Ctx, cls: str, det: str | NP, plural: bool | None = None, adj: float = 0.18) -> NP:
    """A noun of a class (~ mass, ^ plural only, _ never "a") after a determiner, a quantity ("q") or the owner's."""
    r = ctx.r
    en, fr = r.choice(LEX[cls])
    mark, en = (en[0], en[1:]) if en[0] in "~^_" else ("", en)
    plural = mark == "^" or mark == "" and (r.random() < 0.22 if plural is None else plural)
    if det == "q":
        plural = mark in ("", "^")
        det = "many" if plural else "cup" if cls == "drink" and r.random() < 0.6 else "much"
    if isinstance(det, NP):
        forms = [pro(det)[2]] * 2 + pro(det)[7].split(" ")
    elif det in LEX:
        quantity = r.choice(LEX[det])
        forms = [quantity[0]] * 2 + [quantity[1]] * 3
    else:
        forms = DET["some" if det == "a" and mark == "~" else det]
    word, g = fr_noun(fr, plural)
    d, en = forms[4 if plural else 2 + (g == "f")], en_form(en, "p") if plural else en
    if cls in ADJ and r.random() < adj:
        en_adj, fr_adj, _ = r.choice(ADJ[cls])
        agreed, before = fr_adjective(fr_adj, g, plural)
        if re.match(VOWEL, word) and g == "m" and not plural:
            agreed = {"beau": "bel", "nouveau": "nouvel", "vieux": "vieil"}.get(agreed, agreed)
        d = "de" if before and d == "des" else d
        word, en = f"{agreed} {word}" if before else f"{word} {agreed}", f"{en_adj} {en}"
    if re.match(VOWEL, word):
        d = {"ce": "cet", "ma": "mon", "ta": "ton", "sa": "son"}.get(d, d)
    fr = re.sub("^de le ", "du ", elide(f"{d} {word}"))
    return NP(f"{forms[plural]} {en}".strip(), fr.strip(), 6 if plural else 3, g, cls)


def slot(ctx: Ctx, key: str, subj: NP | None = None) -> NP:
    """The phrase for a slot or complement: a number, people, "determiner_class", or a kind of LEXICON filled and agreed."""
    r = ctx.r
    if key in ("num", "few", "hour"):
        return number(r.randint(*{"num": (13, 90), "few": (2, 9), "hour": (2, 11)}[key]))
    if key == "who":
        return NP(*strong(human(ctx, 0.35, subj)))
    if key in ("kin", "GEN"):
        return noun_phrase(ctx, "kin", owner(ctx), False) if key == "kin" else noun_phrase(
            ctx, r.choice(("food", "drink", "animal")), "gen", True, 0)
    if "_" in key:
        det, cls = key.split("_")
        plural = None if det == "q" else False
        return noun_phrase(ctx, cls, owner(ctx) if det == "own" else det, plural, 1 if det == "what" else 0.18)
    if key == "TO":
        there = slot(ctx, "AT")
        return there._replace(en=re.sub("^(at|in) (?!home)|^at ", "to ", there.en).replace("to home", "home"))
    thing = key == "ADJ" and subj and subj.cls in ADJ and subj.cls not in PEOPLE
    en, fr, *_ = r.choice(ADJ[subj.cls] if thing else LEX[key])
    en, fr = fill(ctx, en, "*" * thing + fr, {}, subj)
    if subj:
        fr = re.sub(r"(\S+)/(\S+)", r"\2" if subj.g == "f" else r"\1", fr)
        fr = re.sub(r"\*(\w+)", lambda m: fr_adjective(m[1], subj.g, subj.i in (4, 6))[0], fr)
    return NP(en, fr)


def fill(ctx: Ctx, en: str, fr: str, bound: dict, subj: NP | None = None) -> tuple[str, str]:
    """Two templates with their slots filled alike: from `bound`, or anew by `slot`; {x.p} is the pronoun of {x}."""
    def text(m: re.Match, lang: int) -> str:
        prep, key, how = m.groups()
        if key not in bound:
            bound[key] = slot(ctx, key, subj)
        value = bound[key]
        if isinstance(value, Clause) and how in ("w", "r"):
            value = value.gap
        if isinstance(value, Clause):
            words = french(value, how or "") if lang else english(value, how or "")
        else:
            words = pronoun(value)[lang] if how == "p" else value[lang]
        return joined(prep, words) if prep and lang else f"{prep or ''} {words}".strip()
    pattern = r"(?:\b(à|de) )?\{(\w+)(?:\.(\w))?\}"
    return re.sub(pattern, lambda m: text(m, 0), en), re.sub(pattern, lambda m: text(m, 1), fr)


def subject(ctx: Ctx, want: str, q: bool, flags: str, first: Clause | None) -> NP:
    """The subject a clause asks for: same, obj, other (than `first`'s), third, thing:classes, or a word of its own."""
    r, you = ctx.r, ctx.you
    if want in ("same", "obj") and first:
        return pronoun(first.obj if want == "obj" and first.obj else first.subj)
    if "y" in flags:
        return NP("it", "il", cls="thing", pron=True)
    if want in ("I", "you", "we"):
        return pronoun(NP("", "", {"I": 1, "you": you, "we": 4}[want]))
    if want == "who":
        return NP("who", "qui")
    if want in LEX or "+" in want:
        return noun_phrase(ctx, r.choice(want.split("+")), r.choice(("the", "this", owner(ctx))), None, 0.1)
    if "a" in flags and r.random() < 0.12:
        return noun_phrase(ctx, "animal", r.choice(("the", owner(ctx))))
    if want == "any" and r.random() < 0.05:
        return NP(*r.choice((("everyone", "tout le monde"), ("nobody", "personne"), ("somebody", "quelqu'un"))), cls="any")
    while True:
        np, two = human(ctx, 0.58), human(ctx, 0)
        if not np.pron and not two.fr.startswith(np.fr) and r.random() < 0.08:
            return NP(f"{np.en} and {two.en}", f"{np.fr} et {two.fr}", 6, "f" if np.g == two.g == "f" else "m")
        if not (want == "third" and np.i not in (3, 6) or want == "other" and np.i == (first.subj.i if first else 1)
                or q and np.i in (1, 4) and r.random() < 0.7):
            return np


def complement(ctx: Ctx, kind: str, subj: NP, neg: str) -> NP:
    """What a verb takes: people, a phrase of a kind, or a thing of a class, sometimes as a pronoun."""
    r, own = ctx.r, subj if subj.cls in PEOPLE else "the"
    if kind == "person":
        return human(ctx, 0.45, subj)
    if kind.isupper():
        return slot(ctx, kind, subj)
    if r.random() < 0.14:
        return pronoun(noun_phrase(ctx, kind, "the"))
    if LEX[kind][0][0][0] == "_":
        return noun_phrase(ctx, kind, "the" if kind in ("ride", "sight") else r.choice(("the", "the", own)))
    return noun_phrase(ctx, kind, r.choice(("the", "the", "a", "a", "a", own, own, "this", "that", "a" if neg else "q")))


def questioned(ctx: Ctx, how: str, kind: str, prep: str) -> NP:
    """What is taken out of a clause: what, who, which or how many of a class, or a relative's antecedent."""
    if how in ("what", "who"):
        np = NP(how, "qui" if how == "who" else "quoi" if prep else "que")
    else:
        np = noun_phrase(ctx, kind, ctx.r.choice(("the", "the", "a")) if how == "rel" else how, how == "howmany")
    return np._replace(fr=joined(prep, np.fr)) if prep else np


def adverbs(ctx: Ctx, want: str, flags: str, tense: str, neg: str, subj: NP) -> tuple[NP, NP]:
    """What goes inside a clause (often, already) and what ends it (place, company, manner, time)."""
    r, mid, tail, group = ctx.r, NP("", ""), [], TENSE[tense][2]
    kinds = [{"p": "AT", "w": "WITH", "h": "HOW", "l": "HOUR", "b": "BY"}[f] for f in flags if f in "pwhlb"]
    if kinds and "p" in want and r.random() < 0.4:
        tail.append(slot(ctx, r.choice(kinds), subj))
    if "s" in flags:
        group = {"pres": "state"}.get(group, group) if "t" in flags else ""
    elif tense == "perf" and not neg and r.random() < 0.3:
        mid = slot(ctx, "already")
    elif tense == "pres" and not neg and "t" in want and "y" not in flags and r.random() < 0.35:
        mid, group = slot(ctx, "often"), ""
    if "t" in want and group and neg in ("", "not", "nothing", "nobody") and not (group == "pres" and "o" in flags):
        tail += [slot(ctx, group)] * (r.random() < (0.7 if group == "pres" else 0.4))
    return mid, NP(" ".join(t.en for t in tail), " ".join(t.fr for t in tail))


def clause(ctx: Ctx, spec: dict[str, str], first: Clause | None) -> Clause:
    """Plan a clause: v verbs, t tenses, n chance of "not", s subject, o object, gap, x adverbs, not=flags barred, f needed.

    `first` is the sentence's clause planned before this one, if any.
    """
    r, gap = ctx.r, spec.get("gap", "")
    while True:
        verb = r.choice(VERB[r.choice(spec.get("v", "act,act,act,act,mind,be").split(","))])
        kind, flags = r.choice(verb[2].split("+")), verb[3]
        state = flags + spec.get("n", "") * (spec.get("n") in ("0", "1")) + "q" * ("q" in spec) + "K" * ("k" not in flags)
        tenses = [t for t, (*_, bar, weight) in TENSE.items() if not set(bar) & set(state)
                  and (t in spec["t"].split(",") if "t" in spec else weight != "0")]
        fits = kind == "person" if gap == "who" else not gap or kind in LEX and kind.islower()
        if tenses and fits and set(spec.get("f", "")) <= set(flags) and not set(spec.get("not", "")) & set(flags):
            break
    tense = r.choices(tenses, [max(1, int(TENSE[t][4])) for t in tenses])[0]
    bar, prep = TENSE[tense][3], verb[1].split(" ")[-1] if verb[1].endswith(PREPOSITIONS) else ""
    subj, neg = subject(ctx, spec.get("s", ""), "q" in spec, flags, first), ""
    if subj.fr != "personne" and ("0" in bar or "1" not in bar and r.random() < float(spec.get("n", 0.2))):
        neg = r.choice(["not", "not"] if "q" in spec else {
            "perf": ["not", "never", "yet"], "past": ["not", "not", "not", "not" if "i" in flags else "never"],
            "pres": ["not", "not", "not", "never", "no longer", "anymore"], "want": ["not", "not", "anymore"]}.get(tense, ["not"]))
    obj = complement(ctx, kind, subj, neg) if kind and not gap else None
    if obj and neg == "not" and not prep and "s" not in flags and "de" not in TENSE[tense][1].split(" ") and r.random() < 0.12:
        if kind == "person":
            neg, obj = "nobody", NP("anybody", "personne")
        elif kind.islower():
            neg, obj = "nothing", NP("anything", "rien")
    if "o" in spec:
        obj = pronoun(first.obj) if spec["o"] == "A" else pronoun(NP("", "", r.choice((1, 4))))
    to = human(ctx, 0.6, subj) if verb in VERB["dative"] else None
    return Clause(subj, verb, tense, neg, obj, to, questioned(ctx, gap, kind, prep) if gap else None,
                  *adverbs(ctx, spec.get("x", "pt"), flags, tense, neg, subj))


def english(c: Clause, how: str = "") -> str:
    """A clause in English: a statement, q question, i imperative, b base, g -ing, t with "to", s with its subject too.

    "+" marks what `sentence` may contract.
    """
    aux, *link, shape = TENSE[c.tense][0].split(" ")
    head, *more = [pro(c.subj)[2] if w == "one's" else w for w in c.verb[0].split(" ")]
    rest = [w for w in more if w[0] != "~"]
    if c.obj:
        some = c.neg or how == "q" or c.subj.fr == "personne"
        obj = re.sub("^some ", "any ", strong(c.obj)[0]) if some else strong(c.obj)[0]
        particle = [w[1:] for w in more if w[0] == "~"]
        rest += [obj, *particle] if c.obj.pron else [*particle, obj]
    if c.to:
        swap = c.to.pron and c.obj and not c.obj.pron and "d" not in c.verb[3]
        rest[-1 if swap else len(rest):] = [strong(c.to)[0], rest[-1]] if swap else ["to", strong(c.to)[0]]
    rest += [c.tail.en, c.neg if c.neg in ("yet", "anymore") else ""]
    if how and how != "q":
        let = how == "i" and c.subj.i == 4
        no = "" if not c.neg else "not " if let or how != "i" else "+do +not "
        start = {"i": "let's " if let else "", "s": f"{strong(c.subj)[0]} to "}.get(how, "")
        return " ".join([start, no, "to" if how == "t" else "", en_form(head, "g" if how in "gn" else "b"), *rest])
    words = [*link, en_form(head, shape)]
    if head == "be" and not link and aux in ("do", "did"):
        aux, words = "be" if aux == "do" else "was", []
    aux = AUX[aux].split(" ")[c.subj.i - 1] if aux in AUX else aux
    negated = c.neg not in ("", "never", "no longer")
    if aux in ("do", "does", "did") and how != "q" and not negated:
        words[0], aux = en_form(words[0], {"do": "b", "does": "s", "did": "d"}[aux]), ""
    words = [c.neg if c.neg in ("never", "no longer") else c.mid.en, *words, *rest]
    if how == "q":
        return " ".join([NOT_EN.get(aux, aux + "n't") if negated else "+" + aux, c.subj.en, *words])
    return " ".join([c.subj.en, "+" + aux if aux else "", "+not" if negated else "", *words])


def french(c: Clause, how: str = "") -> str:
    """A clause in French: a statement (also for "q" and "s"), i imperative, n past infinitive, b, g, t infinitive."""
    *lead, tense = TENSE[c.tense][1].split(" ")
    tense = ("i" if "i" in c.verb[3] else "pc") if tense == "past" else tense
    words, i, mine = c.verb[1].split(" "), c.subj.i, pro(c.subj)
    reflexive = words[0] == "se"
    head, *more = words[reflexive:]
    if "one's" in c.verb[0]:
        more = [dict(zip(("son", "sa", "ses"), mine[7].split(" "))).get(w, w) for w in more]
    prep = more.pop() if words[-1] in PREPOSITIONS else ""
    negated = (c.neg or c.subj.fr == "personne") and head not in ("être", "jouer")
    rest = [INDEFINITE.sub("de ", " ".join(more)) if negated else " ".join(more)]
    clitics = ["se" if i in (3, 6) else mine[4]] if reflexive else []
    if c.obj and c.obj.pron and (not prep or prep == "à" and "g" not in c.verb[3]):
        clitics.append(pro(c.obj)[5 if prep else 4])
    elif c.obj and c.neg != "nothing":
        obj = strong(c.obj)[1]
        rest.append(joined(prep, obj) if prep else INDEFINITE.sub("de ", obj) if negated else obj)
    if c.to:
        (clitics if c.to.pron else rest).append(pro(c.to)[5] if c.to.pron else joined("à", c.to.fr))
    rest.append(c.tail.fr)
    clitics.sort(key=lambda w: 1 if w in ("le", "la", "les") else 2 if w in ("lui", "leur") else 0)
    # The participle agrees with the subject after être, else with a direct object that comes before the verb.
    being = reflexive or getLemma(head, "fr")["V"]["aux"] == "êt" or head in ("sortir", "rentrer")
    agree = None if prep else c.obj if c.obj and c.obj.pron else c.gap if c.gap and c.gap.cls else None
    agree = (None if reflexive and more else c.subj) if being else agree
    pp = fr_verb(head, "pp") + ("e" if agree and agree.g == "f" else "")
    pp += "s" if agree and agree.i in (4, 6) and pp[-1] != "s" else ""
    aux = "être" if being else "avoir"
    if how == "i":
        verb = fr_verb(head, "ip", i)
        if c.neg:
            return " ".join(["ne", *clitics, verb, NOT_FR.get(c.neg, ""), *rest])
        clitics.sort(key=lambda w: w not in ("le", "la", "les"))
        clitics[-1:] = [{"me": "moi", "te": "toi"}.get(w, w) for w in clitics[-1:]]
        return " ".join(["-".join([verb, *clitics]), *rest])
    if how in ("b", "g", "t", "n"):
        verbs = [fr_verb(aux, "b"), pp] if how == "n" else [fr_verb(head, "b")]
        return " ".join(["ne pas" if c.neg else "", *clitics, *verbs, *rest])
    if lead:
        aux, pp = "avoir", fr_verb(lead[0], "pp")
    finite = [fr_verb(aux, COMPOUND[tense], i), pp] if tense in COMPOUND else [fr_verb(lead[0] if lead else head, tense, i), ""]
    ne = "ne" if c.neg or c.subj.fr == "personne" else ""
    before, after = ([], [*lead[1:], *clitics, fr_verb(head, "b")]) if lead else (clitics, [])
    return " ".join([c.subj.fr, ne, *before, finite[0], NOT_FR.get(c.neg, ""), c.mid.fr, finite[1], *after, *rest])


def tidy(text: str) -> str:
    """Text in single spaces, with none before a stop or comma and a capital after each end of sentence."""
    text = re.sub(r" +([.,])", r"\1", re.sub(" +", " ", text)).strip()
    return re.sub(r"(^|[.?!] )(\w)", lambda m: m[1] + m[2].upper(), text)


def sentence(ctx: Ctx) -> tuple[str, str]:
    """One pair: a row of ROWS chosen by weight, its clauses planned, its slots filled, both sides' spelling finished."""
    r = ctx.r
    _, en, fr, *specs = r.choices(ROW, WEIGHTS)[0]
    bound: dict = {}
    for name, spec in zip("AB", specs):
        bound[name] = clause(ctx, dict(o.split("=") for o in spec.split()), bound.get("A"))
    en = re.sub(r"\((.*?)\)", r"\1" if r.random() < 0.5 else "", en)
    en, fr = fill(ctx, en, re.sub(r"\[(.*?)/(.*?)\]", r"\1" if ctx.you == 2 else r"\2", fr), bound)
    en = re.sub(" +", " ", en)
    if r.random() < 0.67:
        en = re.sub(r"\+(\w+) \+not", lambda m: "+am not" if m[1] == "am" else NOT_EN.get(m[1], m[1] + "n't"), en)
        en = CONTRACT.sub(lambda m: (m[1] or m[2]) + SHORT[m[3]] if m[3] in SHORT else m[0], en)
    en = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", en.replace("+", "").replace("can not", "cannot"))
    return tidy(en.replace(" ?", "?").replace(" !", "!")), tidy(elide(fr))


def sentences(n: int, seed: int) -> list[tuple[str, str]]:
    """n distinct (English, French) pairs, the same for the same seed."""
    r = random.Random(seed)
    found: dict[tuple[str, str], None] = {}
    while len(found) < n:
        found[sentence(Ctx(r, 2 if r.random() < 0.8 else 5))] = None
    return list(found)
